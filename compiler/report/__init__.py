"""Shows what passes did: in a terminal, and as one self-contained web page."""
