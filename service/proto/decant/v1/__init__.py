"""Generated from decant.proto."""
