"""The torch interface: every optimizer beside its namesake in torch.optim."""
