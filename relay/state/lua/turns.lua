-- Take turns of a cursor; returns the first. Taken twice by a repeated call, some are skipped.
return redis.call('HINCRBY', KEYS[1] .. ':turns', ARGV[2], ARGV[3]) - ARGV[3]
