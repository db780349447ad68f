"""What the HTTP protocol is made of: bodies, strict decoding, the OpenAPI document. Its server is
`protocols/http.py`."""
