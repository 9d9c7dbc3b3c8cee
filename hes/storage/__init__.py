"""Where emails are safe: the protocol (`storage`), what the databases share (`sql`), and each kind."""
