"""`hes demo`: a failover told live. HES itself is the real one; only the two providers are made up."""
