"""Selectors: pure choices among eligible accounts."""

from __future__ import annotations

from balancer.selection.selector import Learning, Pricing, Selector, learn_of, price_of
from balancer.selection.selectors import SELECTORS, make_selector

__all__ = ["SELECTORS", "Learning", "Pricing", "Selector", "learn_of", "make_selector", "price_of"]
