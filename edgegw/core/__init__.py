"""The pure part of edgegw: decisions and formats, without input or output, clock or randomness."""
