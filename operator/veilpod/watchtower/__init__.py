"""Process: a watchtower. Holds the newest co-signed states of channels and answers old ones on chain while their operators are away."""
