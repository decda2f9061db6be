-- Give back parts of permits.
-- ARGV: repeated, owner, number of the call, doubles (count, granted, at, windows, each window) for each name, names.

local done = P .. ':refunded:' .. ARGV[2]
if redis.call('GET', done) == ARGV[3] then
  return 0
end
redis.call('SET', done, ARGV[3], 'PX', 600000)
local read = reader(ARGV[4])
local books = {}
for n = 5, #ARGV do
  local name = ARGV[n]
  local book = books[name] or load_book(name)
  books[name] = book
  local count, granted, at = read(), read(), read()
  all_ledgers(book)
  for _ = 1, read() do
    local ledger = book.ledgers[read()]
    if ledger and ledger.known then
      ledger_give_back(ledger, count, granted, at)
      book.changed = true
    end
  end
end
for _, book in pairs(books) do
  save(book)
end
return 1
