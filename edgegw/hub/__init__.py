"""The centre: keeps accounts, receives and replays the boxes' journals, hands out allowances and site
settings (DESIGN §10)."""
