"""Money: what calls may cost and have cost."""

from ._budget import Account, Attempt, Budget, Overrun, check_price, dollars
from ._prices import ModelPrice, load_prices, model_price, models_of

__all__ = [
    "Account",
    "Attempt",
    "Budget",
    "ModelPrice",
    "Overrun",
    "check_price",
    "dollars",
    "load_prices",
    "model_price",
    "models_of",
]
