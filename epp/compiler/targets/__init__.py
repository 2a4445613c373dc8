"""An intent in the words of one gateway each: ``emit(intent, documents, options) -> Emission``.

Rule:    what a gateway cannot express is an error with its reason and the way out, never left out in silence.
"""
