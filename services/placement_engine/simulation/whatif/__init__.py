"""What if: a situation run forward twice on a virtual clock, as it is and changed."""
