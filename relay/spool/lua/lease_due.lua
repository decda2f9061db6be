-- Lease what is due. ARGV: repeated, owner, queue, now, limit, skip. Returns the token, then rows.
--
-- What a call without an answer leased comes back by `unheard`, which compares what is held with what its owner knows.

local owner, queue = ARGV[2], ARGV[3]
if is_dead(owner) then
  return dead_reply()
end
local ids = redis.call('ZRANGEBYSCORE', P .. ':w:' .. queue, '-inf', ARGV[4], 'LIMIT', ARGV[6], ARGV[5])
if #ids == 0 then
  return { '' }
end
local token = new_token(owner)
local out = { token }
for _, id in ipairs(ids) do
  redis.call('ZREM', P .. ':w:' .. queue, id)
  local attempts = field(id, 'at')
  if attempts then
    hold_lease(id, token)
    redis.call('HSET', m(id), 'ba', attempts)
    out[#out + 1] = row(id)
  end
end
return out
