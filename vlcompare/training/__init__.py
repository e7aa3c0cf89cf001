"""What every training here shares: optimisers, starting values, and states that outlive an interruption."""
