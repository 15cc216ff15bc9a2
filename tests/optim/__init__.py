"""The torch face: every optimizer beside its namesake in torch.optim."""
