-- All processes that hold leases or may. ARGV: repeated.
return redis.call('ZRANGE', P .. ':owners', 0, -1)
