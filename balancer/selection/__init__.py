"""Selectors: pure choices among eligible accounts."""

from __future__ import annotations

from balancer.selection.selectors import SELECTORS, Selector, make_selector

__all__ = ["SELECTORS", "Selector", "make_selector"]
