-- Give messages back unattempted; lost leases are passed over. ARGV: repeated, due ('' leaves it), reason ('' leaves
-- it), then id and token of each. Returns how many.

local done = 0
for n = 4, #ARGV, 2 do
  local id, token = ARGV[n], ARGV[n + 1]
  if holds(id, token) then
    drop_lease(id, token)
    if field(id, 'b') == '1' then
      redis.call('HSET', m(id), 'b', 0, 'at', field(id, 'ba'))
    end
    if ARGV[3] ~= '' then
      redis.call('HSET', m(id), 're', ARGV[3])
    end
    put_back(id, ARGV[2])
    done = done + 1
  end
end
return done
