"""Modular: read approach.py first, then its experts: planner (grammar, rules, layout), checker, captioner."""
