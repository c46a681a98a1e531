
// Which words mean which regions: hover over a phrase and see its region, over a region and see its phrase.

function phrases(pair) {
  const found = pair.phrases ?? []
  if (!found.length) return []
  const canvas = element('canvas', { id: 'phrases' })
  const said = element('figcaption', {}, 'hover over a coloured phrase, or over the picture')
  const chips = found.map(phrase => element('span', { class: 'phrase', style: `background:${phrase.colour}`, title: says(phrase) }, phrase.text))
  const draw = chosen => {
    chips.forEach((chip, i) => { chip.style.opacity = chosen === null || chosen === i ? 1 : 0.25 })
    said.textContent = chosen === null ? 'hover over a coloured phrase, or over the picture' : says(found[chosen])
    colourRegions(canvas, pair, chosen === null ? found : [found[chosen]])
  }
  chips.forEach((chip, i) => {
    chip.onmouseenter = () => draw(i)
    chip.onmouseleave = () => draw(null)
    if (found[i].effect < 0) chip.style.textDecoration = 'line-through'
  })
  canvas.onmousemove = event => {
    const [x, y] = [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight]
    const heats = found.map(phrase => shareAt(phrase.map, pair.view, x, y))
    const most = heats.indexOf(Math.max(...heats))
    draw(heats[most] > 0.25 ? most : null)
  }
  canvas.onmouseleave = () => draw(null)
  const line = element('p', { class: 'caption' })
  let end = 0
  for (const i of found.map((_, i) => i).sort((a, b) => found[a].span[0] - found[b].span[0])) {
    const [from, to] = found[i].span
    if (from < end) continue // of two phrases that overlap the first stands in the line
    line.append(pair.text.slice(end, from), chips[i])
    end = to
  }
  line.append(pair.text.slice(end))
  draw(null)
  return [element('section', {}, element('h2', {}, 'which words mean which regions'), line, element('figure', {}, canvas, said))]

  function says(phrase) {
    const doubt = phrase.verdict === 'ok' ? '' : `, ${phrase.verdict.replaceAll('_', ' ')}`
    return `${phrase.text}: ${phrase.effect < 0 ? 'speaks against, ' : ''}similarity ${phrase.effect < 0 ? '' : '+'}${number(phrase.effect)}${doubt}`
  }
}

/** Of the cell at a place of the picture, its value as a share of the map's highest; 0 beside what the model saw. */
function shareAt(map, [left, top, right, bottom], x, y) {
  const values = bytes(map.cells)
  const columns = values.length / map.rows
  const column = Math.floor((x - left) / (right - left) * columns)
  const row = Math.floor((y - top) / (bottom - top) * map.rows)
  if (column < 0 || column >= columns || row < 0 || row >= map.rows) return 0
  return Math.max(0, map.low + (map.high - map.low) * values[row * columns + column] / 255) / (map.top > 0 ? map.top : 1)
}

/** The picture in grey with the region of each phrase in its colour, as `coloured_regions` draws it. */
async function colourRegions(canvas, pair, shown) {
  const turn = canvas.dataset.turn = String(+(canvas.dataset.turn ?? 0) + 1)
  const drawn = element('canvas')
  await paint(drawn, pair, LARGE, false)
  if (canvas.dataset.turn !== turn) return // another phrase was chosen meanwhile
  const { width, height } = drawn
  const context = drawn.getContext('2d')
  const picture = context.getImageData(0, 0, width, height)
  const layers = shown.map(phrase => [
    heat({ map: phrase.map, view: pair.view }, width, height), [1, 3, 5].map(at => parseInt(phrase.colour.slice(at, at + 2), 16)),
  ])
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = picture.data.subarray(4 * i, 4 * i + 3)
    const grey = 0.2 * 255 + 0.75 * (0.299 * r + 0.587 * g + 0.114 * b)
    const sum = layers.reduce((total, [heats]) => total + heats[i], 0)
    const weight = 0.85 * Math.min(1, Math.max(0, 2 * Math.max(...layers.map(([heats]) => heats[i])) - 0.2))
    for (let c = 0; c < 3; c++) {
      const mixed = layers.reduce((total, [heats, colour]) => total + heats[i] * colour[c], 0) / (sum || 1)
      picture.data[4 * i + c] = (1 - weight) * grey + weight * mixed
    }
  }
  canvas.width = width
  canvas.height = height
  context.putImageData(picture, 0, 0)
  canvas.getContext('2d').drawImage(drawn, 0, 0)
}
