"""The lab: images, virtual machines and systems of systemd, started by `make lab` and `make lab-long`."""
