"""State channels: states, receipts, the rules of a transfer, and the pure machine that two operators run. Paper steps 3, 7 and 11."""
