"""What the ISO 8583 protocol is made of: field table, MAC, identities, messages. Its server is
`protocols/iso8583.py`."""
