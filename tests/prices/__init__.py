"""Prices: `keld/prices.toml`, made from litellm's price file, and the tests that compare it with genai-prices.

litellm   the entries of litellm's file -> the tables of `prices.toml`; pure
__main__  `make prices`: the file out of a wheel that is pinned by its hash, downloaded, and never installed
"""
