"""Predictions for more cores than this machine has, from costs measured here."""
