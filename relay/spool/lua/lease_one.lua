-- Lease one message by its id. ARGV: repeated, owner, id. Returns token and row, or nothing.

local id = ARGV[3]
if is_dead(ARGV[2]) then
  return dead_reply()
end
local kept = redis.call('HMGET', m(id), 'st', 'tk', 'at', 'q')
if kept[1] ~= '0' or kept[2] ~= '' then
  return {}
end
local token = new_token(ARGV[2])
redis.call('ZREM', P .. ':w:' .. kept[4], id)
hold_lease(id, token)
redis.call('HSET', m(id), 'ba', kept[3])
return { token, row(id) }
