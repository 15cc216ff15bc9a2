"""The contenders of test_workers.py: programs that train the same model in different ways."""
