"""Plots of a comparison, each as SVG text. Matplotlib's Agg back end: no display is needed."""
