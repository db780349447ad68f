"""edgegw: a payment gateway appliance that keeps clearing while the line to the centre is down."""

__version__ = "0.1.0"
