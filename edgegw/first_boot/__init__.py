"""A machine's first boot: it takes a claim, enrols, and has the settings of a box; nobody types a command.

`files` is what lies in its folder meanwhile, `sources` where claims come from, `work` what is done and said
of it, `page` the same for a browser in the branch, `about` the machine itself. Leaves out the asking
(`edgegw.by_claim`) and the box that runs afterwards.
"""
