"""What a recipe may name: shipped as data, checked on the text and on the object.

It is no sandbox. It keeps a recipe from naming what runs, imports, fetches or writes by
itself; it does not bound memory or time, and trusts the libraries that it lists.
"""

from .judge import AllowList

__all__ = ["AllowList"]
