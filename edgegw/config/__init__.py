"""Settings: the box's and the hub's local TOML files, and the site's bundle (DESIGN §9).

Every option is a field with its unit in its name, a default where one makes sense and a sentence of help;
what is wrong is said for every option at once, with its value and the mend. Leaves out acting on them.
"""
