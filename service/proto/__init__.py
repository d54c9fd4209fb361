"""The protocols: `.proto` files, and the code `generate.py` makes of them; the code is checked in, never edited."""
