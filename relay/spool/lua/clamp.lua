-- Due times that no clock can have meant become due now. ARGV: repeated, now, latest. Returns how many.

local done = 0
for _, queue in ipairs(redis.call('SMEMBERS', P .. ':queues')) do
  local waiting = P .. ':w:' .. queue
  for _, range in ipairs({ { '-inf', '(0' }, { '(' .. ARGV[3], '+inf' } }) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, range[1], range[2], 'LIMIT', 0, 5000)) do
      redis.call('HSET', m(id), 'due', ARGV[2])
      redis.call('ZADD', waiting, ARGV[2], id)
      done = done + 1
    end
  end
end
return done
