-- Keep results while the lease goes on. ARGV: repeated, id, token, attempts, crashes, sum, data. Returns 1, or 0 when
-- the lease is lost.

local id = ARGV[2]
if not holds(id, ARGV[3]) then
  return 0
end
redis.call('HSET', m(id), 'at', ARGV[4], 'ba', ARGV[4], 'cr', ARGV[5], 'sum', ARGV[6], 'd', ARGV[7])
return 1
