"""Generated from tei.proto."""
