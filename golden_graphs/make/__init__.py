"""What makes the golden graphs and measures them; the folders beside it hold data alone."""
