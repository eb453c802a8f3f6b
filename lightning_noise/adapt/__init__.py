"""Policies and plans of an adaptive batch size: pure rules, from an estimate to actions."""
