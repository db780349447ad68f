"""The line to the centre: what the box sends, what it takes in, and what it makes of silence (DESIGN §4)."""
