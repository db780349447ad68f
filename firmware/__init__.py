"""Builds the appliance: locks of Debian packages, root file systems, images, bundles. Not part of the wheel.

`python -m firmware --help` names the commands; `firmware/README.md` says how to use them. The package reads
`edgegw.errors` and nothing else of edgegw; edgegw never imports it.
"""
