-- Unmake a message whose storing was given up without an answer; its client was told to come again. ARGV: repeated, id,
-- nonce, owner. Returns 1 when it is gone, 0 when another process has it or has
-- delivered it.

local id = ARGV[2]
local kept = redis.call('HMGET', m(id), 'nc', 'tk', 'at')
if kept[1] ~= ARGV[3] then
  return redis.call('GET', P .. ':gone:' .. id) == ARGV[3] and 0 or 1
end
if kept[2] ~= '' and owner_of(kept[2]) ~= ARGV[4] then
  return 0
end
remove(id)
return 1
