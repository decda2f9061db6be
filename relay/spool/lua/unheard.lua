-- Give back what an owner holds and does not know of: leased by a call whose answer never came. ARGV: repeated, token
-- number up to which it knows all, owner, then ids that it knows of. Returns how many.

local known = {}
for n = 4, #ARGV do
  known[ARGV[n]] = true
end
local done = 0
for _, id in ipairs(redis.call('SMEMBERS', P .. ':held:' .. ARGV[3])) do
  if not known[id] and field(id, 'b') == '0' then
    local token = field(id, 'tk')
    if tonumber(string.match(token, '/(%d+)$')) <= tonumber(ARGV[2]) then
      drop_lease(id, token)
      put_back(id, '')
      done = done + 1
    end
  end
end
return done
