"""What modules that run the program are told of it; `module_utils.program` has the same as arguments."""

from __future__ import annotations


class ModuleDocFragment:
    """Parts of a module's documentation."""

    DOCUMENTATION = r"""
options:
  program:
    description: The program.
    type: path
    default: /opt/edgegw/current/bin/edgegw
"""

    USER = r"""
options:
  user:
    description: Who runs the program.
    type: str
    default: edgegw
"""
