"""Real exported graphs, their reference answers, and the scripts that remake them."""
