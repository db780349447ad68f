"""What may leave a machine for whoever helps from outside: how it is, and nothing that it keeps."""
