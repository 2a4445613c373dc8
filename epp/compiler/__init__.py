"""What people declare about their models, and what a gateway needs for it: one pure function.

Place:   compile.py is the way in; inputs/ reads (LLMKube's objects, fleet files), intent.py is what they are
         read into, targets/ writes it in the words of one gateway each.
Ignores: where objects come from and how they are applied (epp.commands, epp.controller).
"""
