"""Names of people, streets and towns that the seeded world is made of.

Ours, and only plain ASCII letters: user ids are spelled from them.
"""

from __future__ import annotations

_FIRST_NAMES = """
    Aaliyah Aaron Abena Abigail Ada Adaeze Adam Adela Aditi Adrian Agnes Ahmad Aiko Aisling Akira
    Alana Albert Alejandra Aleksander Alessia Alexei Alice Alina Alma Alvaro Amara Amina Amir Amit
    Anders Andrea Anh Anika Anneke Antonio Arash Ariel Arjun Arno Arturo Asha Astrid Ataru Aurora
    Ayesha Azadeh Bao Beatriz Bela Benedict Bich Bilal Binh Bjorn Boris Branko Brenda Bridget Bruno
    Camila Carlos Carmen Cecilia Celeste Chandra Chau Chidi Chiara Christa Chukwu Ciara Claude Clara
    Colette Connor Cora Cyrus Dalia Damian Danica Daria Dariusz Deepa Delphine Demetrius Desmond
    Devika Diego Dimitri Dinh Dolores Dong Dora Duc Dylan Ebony Edith Efua Eileen Ekaterina Elena
    Elif Elise Emeka Emil Emre Enrique Erika Esperanza Esther Eva Ezra Farah Faisal Felix Femi
    Fernanda Finn Fiona Florian Freya Gabriela Gareth Gaurav Genevieve Georg Giang Gideon Giulia
    Goran Grace Greta Guillermo Gunnar Habib Hana Hanh Harald Hassan Heidi Helga Henrik Hieu Hiroshi
    Hoang Holly Hugo Huong Ibrahim Ida Ifeoma Ignacio Ilona Imani Imran Ines Ingrid Irina Isaac
    Isamu Ivan Ivy Jamal Jasmin Jelena Jens Jerome Jin Joanna Joaquin Jonas Josephine Joyce Juan
    Julius Kamala Karim Karla Kavya Keiko Kemal Kenji Khalid Kim Kira Kofi Kwame Lars Latisha Laura
    Leila Lena Leon Leticia Liam Lien Lin Linh Lorenzo Lucia Ludwig Luis Luka Magda Mahmoud Malik
    Manuel Marcus Margot Marisol Marlene Mateo Matilda Maya Mehmet Mercedes Milan Minh Miriam Mitsuo
    Moira Monica Morgan Nadia Naomi Natasha Neha Nga Ngozi Niamh Nikolai Nina Noor Nora Obinna
    Octavio Oksana Ola Oliver Orla Oscar Otto Paloma Parisa Pascal Patience Pavel Pedro Petra
    Philippa Phuong Pierre Priya Quang Quentin Rachid Radek Rafael Rahul Ramona Rashid Rebecca Reiko
    Renata Ricardo Rina Robin Rohan Rosa Ruben Rupert Ruth Sabine Sakura Salma Samir Sandra Saoirse
    Selma Seung Shirin Sigrid Silvia Simone Sofia Soren Stefan Suki Sunita Sven Tamar Tanvi Tariq
    Tatiana Thanh Theo Thuy Tobias Tomasz Trang Tuan Uma Ursula Valentina Vanessa Vera Victor Vikram
    Viola Wanda Wei Wendell Wilhelm Xavier Ximena Yara Yasmin Yolanda Yosef Yuki Yusuf Zainab Zara
    Zhen Zoltan
"""
FIRST_NAMES = tuple(_FIRST_NAMES.split())

_LAST_NAMES = """
    Abbott Abdullah Abe Abrams Acosta Adeyemi Agarwal Aguilar Ahlberg Akhtar Albrecht Alvarez Amadi
    Andersen Aoki Arslan Asante Atkinson Ayala Azevedo Bakker Balogun Banerjee Baptiste Barrera
    Bauer Becker Bello Benitez Berg Bergeron Bernard Bianchi Bischoff Blanchard Boateng Bondarenko
    Borges Bose Boucher Brandt Brennan Bui Burke Byrne Cabrera Calderon Callahan Campos Cardoso
    Carlsson Castillo Cervantes Chakraborty Chandler Chaudhry Cheung Choi Christensen Cisneros
    Clarke Cohen Contreras Conti Cordova Costa Cruz Cunningham Dahl Dang Danso Das Delacroix Delgado
    Demir Desai Diallo Dias Dimitrov Dinh Diop Doan Dogan Dominguez Donnelly Doyle Dubois Dumont
    Duong Dvorak Eriksen Escobar Espinoza Estrada Eze Farouk Farrell Feldman Fernandes Ferrari
    Figueroa Finch Fischer Flores Fofanah Fontaine Forsberg Fournier Franco Friedrich Fuentes Fujita
    Gallagher Ganesan Gauthier Georgiou Ghosh Gill Gomes Gonzales Gordon Grant Greco Greenberg
    Gruber Guerrero Gunawan Gupta Gustafsson Gutierrez Haddad Hakimi Halvorsen Hamid Hansen
    Haraldsen Hartmann Hashimoto Hayashi Heikkinen Henriksen Herrera Hidalgo Hoffmann Holm Horvat
    Hosseini Huber Huynh Ibarra Igwe Ilves Inoue Ishikawa Islam Iversen Iyer Jaffe Jankowski Jansen
    Jensen Jimenez Joshi Juarez Kahn Kaminski Kang Kaplan Karlsson Kato Kaur Keita Kelleher Kemp
    Khalil Khoury Kimura Klein Kobayashi Koch Kone Kovacs Kowalski Kramer Krishnan Kruger Kulkarni
    Kumar Kuznetsov Lacroix Lam Lambert Larsen Laurent Le Leblanc Lehmann Leone Lindqvist Lombardi
    Lopes Lozano Lund Luong Macedo Machado Mahajan Mai Makinen Malhotra Mancini Marchetti Marin
    Markovic Marques Matsuda Mbeki McCarthy McGrath Medina Mehta Mendes Mendoza Mensah Meyer Mishra
    Mohr Molina Montoya Moreau Moreno Morita Moss Mukherjee Munoz Murphy Nair Nakagawa Nakamura
    Navarro Ndiaye Neumann Ngo Nielsen Nikolaidis Noguchi Novak Nowak Nunez Nwosu Nyberg Obi Ochoa
    Odhiambo Ogawa Okafor Okeke Olsen Omar Orozco Ortega Osei Ozturk Pacheco Palmer Pandey Papadakis
    Park Pavlov Paz Pedersen Peralta Perera Petit Petrov Pham Phan Pinto Popescu Prakash Prasad
    Quach Quinn Quintero Rahman Ramaswamy Rangel Rao Rasmussen Reddy Reyes Ricci Riedel Rinaldi Rios
    Rivas Rocha Romero Rosario Roy Rubio Ruiz Ryan Saito Salazar Saleh Salgado Sandoval Santoro
    Sarkar Sasaki Sato Schaefer Schreiber Schulz Serrano Shah Shapiro Sharma Shimizu Sihombing Silva
    Simmons Sinclair Singh Sokolov Soto Sousa Srinivasan Steiner Stern Strand Suarez Suzuki Svensson
    Takeda Tanaka Tavares Teixeira Terzi Thapa Toledo Toure Tran Trinh Truong Turan Ueda Ulrich
    Uribe Usman Vargas Vasquez Vega Verma Vidal Villanueva Vinh Virtanen Visser Vogel Volkov Vu
    Wagner Walsh Watanabe Weber Weiss Whitfield Wiesner Winkler Wolff Wozniak Yadav Yamada Yilmaz
    Yoshida Zapata Zhao Ziegler Zimmermann
"""
LAST_NAMES = tuple(_LAST_NAMES.split())

_STREETS = """
    Alder Amber Anchor Aspen Beacon Birch Bramble Brook Canal Chapel Cherry Clover Copper Cypress
    Dogwood Fern Foundry Garden Harbor Hawthorn Hazel Heron Hickory Juniper Lantern Laurel Linden
    Magnolia Meadow Mill Mulberry Orchard Osprey Pebble Poplar Prairie Quarry Ridge Rowan Sable
    Sparrow Spruce Summit Tanner Thistle Vineyard Walnut Willow
"""
STREETS = tuple(_STREETS.split())

STREET_KINDS = ("Street", "Avenue", "Lane", "Road", "Court", "Terrace", "Way", "Place")

TOWNS = (
    ("Albany", "NY", "122"),
    ("Boise", "ID", "837"),
    ("Boulder", "CO", "803"),
    ("Charleston", "SC", "294"),
    ("Columbus", "OH", "432"),
    ("Durham", "NC", "277"),
    ("Eugene", "OR", "974"),
    ("Fargo", "ND", "581"),
    ("Fresno", "CA", "937"),
    ("Hartford", "CT", "061"),
    ("Knoxville", "TN", "379"),
    ("Lincoln", "NE", "685"),
    ("Madison", "WI", "537"),
    ("Mesa", "AZ", "852"),
    ("Mobile", "AL", "366"),
    ("Newport", "RI", "028"),
    ("Norfolk", "VA", "235"),
    ("Ogden", "UT", "844"),
    ("Plano", "TX", "750"),
    ("Portland", "ME", "041"),
    ("Reno", "NV", "895"),
    ("Savannah", "GA", "314"),
    ("Spokane", "WA", "992"),
    ("Tampa", "FL", "336"),
    ("Topeka", "KS", "666"),
    ("Tulsa", "OK", "741"),
)
"""Town, state and the first three digits of its zip codes."""
