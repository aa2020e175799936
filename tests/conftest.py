"""Tests compute on the kernels that main.py chooses: bits are compared across processes."""

from machine.processor import choose_kernels

choose_kernels()
