"""Money: what calls may cost and have cost."""

from ._budget import Account, Attempt, Budget

__all__ = ["Account", "Attempt", "Budget"]
