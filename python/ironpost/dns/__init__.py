"""DNS: implementations of the resolver port (`model.dns.Resolver`)."""
