-- End a lease. ARGV: repeated, id, token, due ('' removes the message), standing, reason, attempts, crashes, sum, data,
-- 1 when it went straight from its storing into this lease. Returns messages and bytes, or 0 when the lease is lost.

local id, token, due = ARGV[2], ARGV[3], ARGV[4]
if not holds(id, token) then
  -- Nobody but its owner ends a lease, unless the owner was taken for dead: then this was done the first time.
  if REPEATED and redis.call('EXISTS', P .. ':dead:' .. owner_of(token)) == 0 then
    return total()
  end
  return 0
end
if due == '' then
  local kept = redis.call('HMGET', m(id), 'nc', 'ss')
  if ARGV[11] == '0' and time() - tonumber(kept[2]) < 60 then
    -- Who stored it may not have heard that it was kept, and ask again.
    redis.call('SET', P .. ':gone:' .. id, kept[1], 'PX', 120000)
  end
  remove(id)
  return total()
end
local kept = redis.call('HMGET', m(id), 'q', 'st')
drop_lease(id, token)
redis.call(
  'HSET', m(id), 'due', due, 'st', ARGV[5], 're', ARGV[6], 'b', 0, 'at', ARGV[7], 'ba', ARGV[7], 'cr', ARGV[8],
  'sum', ARGV[9], 'd', ARGV[10]
)
move(kept[1], tonumber(kept[2]), tonumber(ARGV[5]))
if ARGV[5] == '0' then
  wait_in(kept[1], id, due)
end
return total()
