"""The web page: its files, as they are sent, and what it shows that no other door needs."""
