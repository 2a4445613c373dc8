"""What a person can ask for, a module each: ``run(arguments) -> exit status``."""
