"""The rig: real Envoys, llama.cpp servers and pickers as child processes of a test, demo or bench."""
